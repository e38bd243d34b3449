"""The cluster's certificate authority: signing, join tokens, renewal."""
