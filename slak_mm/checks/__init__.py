"""What users have, looked at before a run depends on it: configs, data sets as they were built, single images.

::

    from slak_mm.checks import check_config, load_config
    for finding in check_config(load_config('my_config.py')):   # tools/check.py
        print(finding)                                          # fine: ...; warning: ...; error: ...
"""
from .config import load_config
from .everything import CHECKS, check_all, check_config, check_split
from .findings import DataError, Finding, enforce
from .images import cut_short
from .items import unreadable
from .refusing import refusing
from .setup import Setup
from .split import Split

__all__ = ['CHECKS', 'DataError', 'Finding', 'Setup', 'Split', 'check_all', 'check_config', 'check_split', 'cut_short', 'enforce',
           'load_config', 'refusing', 'unreadable']
