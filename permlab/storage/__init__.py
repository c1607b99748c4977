"""Files that are whole or not there, weight files and their headers, downloads, hashes: used by every room."""
