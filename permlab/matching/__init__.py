from permlab.matching.result import Matching
from permlab.matching.weight import weight_matching
