"""Checks a config, its model and its data before anything is trained, and says what is fine as well.

It builds what the config describes, reads all annotations, and runs a sample of each data set through its pipeline. train.py and
test.py do the same before they start. The exit code is 1 if there is an error.
"""
import argparse
import sys

import common
from mmengine.logging import MMLogger

from slak_mm.checks import check_config
from slak_mm.checks.findings import ERROR, WARNING


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    common.add_cfg_options(parser)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    counts = {WARNING: 0, ERROR: 0}
    cfg = common.load_config(args)
    MMLogger.get_current_instance().setLevel('WARNING')
    for finding in check_config(cfg):
        print(finding, flush=True)
        counts[finding.level] = counts.get(finding.level, 0) + 1
    print(f'{args.config}: {counts[ERROR]} errors, {counts[WARNING]} warnings.')
    if counts[ERROR]:
        sys.exit(1)


if __name__ == '__main__':
    common.run(main)
