"""The networks to be merged: trained here, read from files, written to files."""
