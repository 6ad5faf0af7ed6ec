"""tf.io.gfile: tf.gfile under its newer names."""

from dtrain.tf1.gfile import Copy as copy
from dtrain.tf1.gfile import DeleteRecursively as rmtree
from dtrain.tf1.gfile import Exists as exists
from dtrain.tf1.gfile import GFile
from dtrain.tf1.gfile import Glob as glob
from dtrain.tf1.gfile import IsDirectory as isdir
from dtrain.tf1.gfile import ListDirectory as listdir
from dtrain.tf1.gfile import MakeDirs as makedirs
from dtrain.tf1.gfile import MkDir as mkdir
from dtrain.tf1.gfile import Remove as remove
from dtrain.tf1.gfile import Rename as rename
from dtrain.tf1.gfile import Stat as stat
from dtrain.tf1.gfile import Walk as walk

__all__ = [
    "GFile",
    "copy",
    "exists",
    "glob",
    "isdir",
    "listdir",
    "makedirs",
    "mkdir",
    "remove",
    "rename",
    "rmtree",
    "stat",
    "walk",
]
