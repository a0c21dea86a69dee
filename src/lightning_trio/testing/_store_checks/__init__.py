"""The rules of a store, one small check each, by what they are about."""
