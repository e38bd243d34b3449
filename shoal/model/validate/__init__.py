"""The rules a spec must keep, one function per spec; errors name the field's path. Pure."""
