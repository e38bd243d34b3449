"""What the programs of Shoal share: vocabulary, tools without rules, supervisor and CLI."""
