"""Titles and order of methods, networks and data sets in tables, and the score that ranks a method.

recipes.py tells it. A name that is not registered is its own title, comes after the others, and is ranked by MPS:
whatever has a run gets a row.
"""
import recipes
from data.datasets import CATALOG
from recipes import BLOCKS, METHODS, NETWORKS


def title_of(name):
    """What a method, a network or a data set is called."""
    known = METHODS.get(name) or NETWORKS.get(name) or CATALOG.get(name)
    return (known and known.title) or name


def is_known(method):
    """Whether the method is registered, or a combination of what is registered, like dismax-5-gradcam."""
    try:
        return bool(recipes.method_of(method))
    except ValueError:
        return False


def is_dismax_method(method):
    """Whether it is one of DisMax's methods: a single network."""
    return method in METHODS and METHODS[method].paper == "dismax"


def in_order(names):
    """Methods or networks: ensembles, single networks and networks in the order of recipes.py, then the others."""
    registered = sorted(METHODS, key=is_dismax_method)  # sorting keeps the order of equals
    known = [name for name in (*registered, *NETWORKS) if name in names]
    return known + sorted(set(names) - set(known))


def sdde_script_score(dataset, method):
    """The score of SDDE's released script for a method, or for the published form of one; None without a script."""
    published = method.removesuffix("_stable")
    released = {name for block in BLOCKS if block.paper == "sdde" for name in block.methods}
    return recipes.sdde_score(dataset, published) if published in released else None
