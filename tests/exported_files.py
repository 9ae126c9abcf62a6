"""Micro models of three libraries, as exported files: fixtures. Each is exported once, by the first process of a run that needs it."""
import importlib
import os
import sys
from pathlib import Path

import pytest
import torch
from checkpoint_helpers import randomise
from filelock import FileLock
from micro_configs import dicts, shrink
from mmengine import Config

from slak_mm.models.build import build_model
from slak_mm.toy import ToySpec, write_ade20k, write_coco

ROOT = Path(__file__).parents[1]
CONFIGS = dict(cls='slak_t_300e_in1k', seg='upernet_slak_micro_toy_ade20k', det='cascade_mask_rcnn_slak_micro_toy_coco')


class Folder:
    """Micro configs, checkpoints and toy data; exported files, each written when it is first asked for."""

    def __init__(self, root):
        self.root = root
        self.lock = FileLock(f'{root}.lock')  # the process that has it can take it again
        with self.lock:
            if not root.exists():
                write_ade20k(root / 'ade', ToySpec(num_train=1, num_val=2, size=(64, 80)))
                write_coco(root / 'coco', ToySpec(num_train=1, num_val=2, size=(64, 80)))

    def config(self, name):
        """The path of a config, with a checkpoint next to it."""
        path = self.root / f'{name}.py'
        with self.lock:
            if not path.exists():
                self.make(name, path)
        return path

    def make(self, name, path):
        cfg = shrink(Config.fromfile(ROOT / f'configs/{CONFIGS[name]}.py'))
        cfg.work_dir = str(self.root / 'work')
        if name == 'seg':
            cfg.model.test_cfg = dict(mode='slide', crop_size=(48, 48), stride=(32, 32))
            cfg.test_dataloader.dataset.data_root = cfg.train_dataloader.dataset.data_root = str(self.root / 'ade')
        cfg.model.backbone.arch['depths'] = (1, 1, 1, 1)
        if name == 'det':
            head = cfg.model.roi_head
            head.update(num_stages=2, stage_loss_weights=[1, .5], bbox_head=head.bbox_head[:2])
            cfg.model.train_cfg.rcnn = cfg.model.train_cfg.rcnn[:2]
            cfg.test_dataloader.dataset.data_root = cfg.train_dataloader.dataset.data_root = f'{self.root}/coco/'
            cfg.test_evaluator.ann_file = f'{self.root}/coco/annotations/instances_val2017.json'
            for node in dicts(cfg._cfg_dict):
                if node.get('type') == 'ConvFCBBoxHead':
                    node.update(num_shared_convs=1, conv_out_channels=8)
                if node.get('type') == 'FCNMaskHead':
                    node.update(num_convs=1)
        cfg.test_dataloader.batch_size = 1
        cfg.dump(path)
        torch.manual_seed(0)
        model = build_model(cfg)
        randomise(model)
        for part, value in model.named_parameters():  # scores far from each other
            if part.endswith(('fc_cls.weight', 'rpn_cls.weight')):
                value.data.normal_(0, 2 / value[0].numel()**.5)
        torch.save(dict(state_dict=model.state_dict(), meta={}), path.with_suffix('.pth'))

    def __call__(self, tool, name, out, *args):
        path = self.root / out
        with self.lock:
            if not path.exists():
                config = self.config(name)
                tool('export', config, config.with_suffix('.pth'), path, *args)
        return path


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    return Folder((base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'exported')


@pytest.fixture
def tool(monkeypatch):
    """Runs a tool in this process."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))

    def run(name, *args):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        sys.modules['common'].run(module.main)

    yield run
    for name in ('convert_checkpoint', 'export', 'test', 'predict', 'quantize', 'common', 'export_onnx'):  # other folders have such
        sys.modules.pop(name, None)


@pytest.fixture
def cls(folder, tool):
    return folder(tool, 'cls', 'new/cls.onnx', '--shape', 64, 96, '--preprocess')


@pytest.fixture
def seg(folder, tool):
    return folder(tool, 'seg', 'seg.onnx')


@pytest.fixture
def det(folder, tool):
    return folder(tool, 'det', 'det.xml', '--shape', 64, 80)
