"""Files that are whole or not there, weight files and their headers, downloads, hashes: used by every room.

from permlab.storage.files import write_json            # one file, atomically
from permlab.storage.folders import replacing_folder    # a folder, atomically
from permlab.storage.tensors import read_header         # safetensors: headers, reading, writing bit by bit
from permlab.storage.shards import read_weights         # one file or the shards of an index
from permlab.storage.hub import is_hub_id, snapshot     # Hugging Face hub
from permlab.storage.hashes import sha256_of
"""
