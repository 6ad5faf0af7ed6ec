"""Names of Python 2 for what Python 3 has: `from six.moves import xrange, urllib`."""

import builtins
import pickle as cPickle
import queue
import urllib
import urllib.error
import urllib.parse
import urllib.request
from functools import reduce
from itertools import zip_longest

__all__ = [
    "cPickle",
    "filter",
    "input",
    "map",
    "queue",
    "range",
    "reduce",
    "urllib",
    "xrange",
    "zip",
    "zip_longest",
]

filter, input, map, range, zip = (getattr(builtins, n) for n in ("filter", "input", "map", "range", "zip"))
xrange = range
