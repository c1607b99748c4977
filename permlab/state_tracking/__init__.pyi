from .constructions import CONSTRUCTIONS as CONSTRUCTIONS
from .constructions import Machine as Machine
from .constructions import construct as construct
from .groups import Group as Group
from .groups import group as group
from .scans import delta_scan as delta_scan
from .scans import diagonal_scan as diagonal_scan
from .words import Words as Words
