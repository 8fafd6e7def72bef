"""Public data sets: which there are, and how one gets onto this machine, whole or not at all."""

from img2img.download.catalog import CATALOG, DataSet, find_data_set
from img2img.download.fetching import Fetched, fetch
from img2img.download.partial import size_text
from img2img.download.transfer import Watcher

__all__ = ["CATALOG", "DataSet", "Fetched", "Watcher", "fetch", "find_data_set", "size_text"]
