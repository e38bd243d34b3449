"""What the programs of Shoal share: vocabulary, tools without rules, supervisor and CLI."""

__version__ = "0.1.0"
