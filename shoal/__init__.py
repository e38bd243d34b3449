"""What the programs of Shoal share: the vocabulary (`model`), tools without rules (`common`), supervisor and CLI."""
