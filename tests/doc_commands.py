"""The commands of the pages, and a place to run them in where all that they name is small."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

import torch
import warm
from micro_configs import shrink
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from slak_mm.toy import ToySpec, write_ade20k, write_coco, write_imagenet, write_voc07

ROOT = Path(__file__).parents[1]
PAGES = {path.stem: path for path in (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')))}

# What of a command is left out, and why. Every other command of every page is run.
NOT_RUN = {
    r'(source|cd) ': 'prepares the shell',
    r'make ': 'builds the environment first; the demos are train.py and test.py for minutes, with the configs run here',
    r'pip install ': 'needs the network; tests/test_packaging.py and test_setup.py install',
    r'python tools/benchmark\.py gpu': 'needs a GPU; tests/tools/test_benchmark.py runs it small on the CPU',
    r'python tools/benchmark\.py (train|upkeep|neurons|runtimes)':
    'a minute, with real networks; tests/tools/test_benchmark.py has micro ones',
    r'python -m pytest tests/gpu': 'needs a GPU; each test says how it runs on a CPU',
    r'python tools/quantize\.py': 'a minute; tests/tools/test_quantize.py runs it small',
    r'python tools/chaos\.py': 'minutes: it kills trainings; tests/tools/test_chaos.py runs it small',
    r'python tools/export\.py .*(upernet|cascade)': 'half a minute each; tests/tools/test_export.py writes micro ones',
    r'python tools/study\.py (run|report|masks|speed)|.*work_dirs/studies/': 'hours; tests/tools/test_study.py runs one small',
    r'tools/dist_train\.sh configs/distillation': 'needs a teacher; tests/training/test_distillation.py has a micro one',
    r'python tools/get_flops\.py --paper': 'minutes; tests/tools/test_get_flops.py checks its rows',
}
# What is changed in a command to make it small: options that are put at its end, or a substitution.
SMALLER = {
    r'make_toy_data\.py': ' --num-train 4 --num-val 2 --size 64 80',
    r'visualize_erf\.py': ' --size 64 --num-images 1',
    r'study\.py': ' --seeds 2 --epochs 1 --train-images 40 --test-images 40 --image-size 32 --channels 4 4 4 4',
    r'benchmark\.py': ' --repeats 1 --threads 1',
    r'benchmark\.py forms': ' --size 32 --batch 2',
    r'benchmark\.py inference': ' --runs 1x64',
    r'benchmark\.py (layer|scaling)': ' --channels 4 --kernel-size 9 --batch 1 --resolutions 4 8',
    r'get_flops\.py .*--allocation': ' --shape 64 64',
    r'train\.py work_dirs/sparse_micro\.py': ' --cfg-options train_cfg.max_iters=4 default_hooks.checkpoint.interval=2',
}
SUBSTITUTIONS = {
    r'tools/dist_(\w+)\.sh +(\S+) +\d+': r'python tools/\1.py \2',  # what it starts, once: mmengine's launcher needs GPUs
    r'\bIMAGE_OR_FOLDER\b': 'data/ade/ADEChallengeData2016/images/validation',
    r'\bCONFIG\b': 'configs/slak_t_300e_in1k.py',
    r'train\.py \.\.\.': 'train.py configs/slak_t_300e_in1k.py',
    r'(configs/(\w+)\.py.*)\b(CKPT|CHECKPOINT)\b': r'\1work_dirs/\2/any.pth',
}


def blocks(page: Path, language: str) -> List[str]:
    return re.findall(rf'```{language}\n(.*?)```', page.read_text(), re.DOTALL)


def python_blocks(page: Path) -> Tuple[dict, List[str], List[str]]:
    """Whole configs by the name in their first line, ``# my_config.py``; fragments of configs; scripts, which import something."""
    configs, fragments, scripts = {}, [], []
    for code in blocks(page, 'python'):
        name = re.match(r'# (\w+\.py)', code)
        if name:
            configs[name[1]] = code
        else:
            (scripts if re.match('import|from', code) else fragments).append(code)
    return configs, fragments, scripts


def lines(page: Path) -> List[Tuple[str, bool]]:
    """Each line of a page's shell blocks, with its continuations, and whether it is a command, not part of a here-document."""
    found, end = [], None
    for line in '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ').splitlines():
        found.append((line, end is None and bool(line.strip())))
        here = re.search(r"<<'(\w+)'", line)
        end = here[1] if here else None if line == end else end
    return found


def exception(command: str) -> str:
    """Why it is not run; empty if it is."""
    return next((reason for pattern, reason in NOT_RUN.items() if re.match(pattern, command)), '')


def shorten(command: str) -> str:
    command = re.sub(r'\s+#.*', '', command)
    for pattern, new in SUBSTITUTIONS.items():
        command = re.sub(pattern, new, command)
    return command + ''.join(options for pattern, options in SMALLER.items() if re.search(pattern, command))


def scripts() -> dict:
    """Page to all of its commands, small, and then its Python scripts. What is on several pages is run for the first of them."""
    found, seen = {}, set()
    for page, path in PAGES.items():
        small = []
        for line, is_command in lines(path):
            if is_command:
                line = '' if exception(line) else shorten(line)
                # what later commands of a page need, is run for each page
                line = '' if line in (small if re.search('(make_toy_data|train).py', line) else seen) else line
                seen.add(line)
            small.append(line)
        found[page] = '\n'.join([*filter(None, small), *(f"python - <<'END'\n{code}END" for code in python_blocks(path)[2])])
    return found


class Workplace:
    """A folder that looks like a checkout with data and checkpoints, everything in it shrunk."""

    def __init__(self, folder: Path, page: Path, text: str):
        self.folder = folder
        (folder / 'work_dirs').mkdir()
        (folder / 'tools').symlink_to(ROOT / 'tools')
        self.write_data()
        official = torch.load(ROOT / 'tests/data/slak_micro.pth', weights_only=True)
        head = {'head.weight': torch.randn(1000, 26), 'head.bias': torch.zeros(1000)}
        for name in set(re.findall(r'\bslak_[tsb]_\d+e_in1k\.pth', page.read_text())):
            torch.save({key: dict(official[key], **head) for key in ('model', 'model_ema')}, folder / name)
        for name in sorted(set(re.findall(r'configs/[\w/]+\.py', text))):
            self.write_config(ROOT / name, name)
        for name, code in python_blocks(page)[0].items():
            (folder / 'whole').mkdir(exist_ok=True)
            (folder / 'whole' / name).write_text(code)
            self.write_config(folder / 'whole' / name, name)
        for path, name in set(re.findall(r'(work_dirs/(\w+)/\w+\.pth)', text)):
            config = next(path for path in (folder / f'{name}.py', folder / f'configs/{name}.py') if path.exists())
            self.write_checkpoint(config, folder / path)

    def write_data(self) -> None:
        spec = ToySpec(num_train=4, num_val=2, size=(64, 80))
        for name, write in (('ade/ADEChallengeData2016', write_ade20k), ('VOCdevkit', write_voc07), ('coco', write_coco),
                            ('imagenet', write_imagenet)):
            write(self.folder / 'data' / name, spec)
        for split, own in (('training', 'train'), ('validation', 'val')):
            images, masks = (self.folder / 'data/mine' / kind / own for kind in ('images', 'masks'))
            images.parent.mkdir(parents=True, exist_ok=True)
            masks.mkdir(parents=True)
            images.symlink_to(self.folder / 'data/ade/ADEChallengeData2016/images' / split)
            for path in (self.folder / 'data/ade/ADEChallengeData2016/annotations' / split).iterdir():
                Image.open(path).point(lambda label: label % 2).save(masks / path.name)
        (self.folder / 'image.jpg').symlink_to(next(images.iterdir()))
        self.write_peoples_data()

    def write_peoples_data(self) -> None:
        """What docs/fine_tuning.md walks through, of toy data: VOC's format, a folder of label maps, a folder for each class."""
        data, ade = self.folder / 'data', self.folder / 'data/ade/ADEChallengeData2016'
        shutil.copytree(data / 'VOCdevkit/VOC2007', data / 'BCCD')
        for path in (data / 'BCCD/Annotations').iterdir():
            for i, name in enumerate(sorted(set(re.findall('<name>[^<]*</name>', path.read_text())))):
                path.write_text(path.read_text().replace(name, f"<name>{('RBC', 'WBC', 'Platelets')[i % 3]}</name>"))
        for split, own in (('training', 'train'), ('validation', 'val'), ('validation', 'test')):
            for kind, ours in (('images', 'img'), ('annotations', 'ann')):
                shutil.copytree(ade / kind / split, data / 'camvid' / ours / own)
            for path in (data / 'camvid/ann' / own).iterdir():
                Image.open(path).point(lambda label: label % 12).save(path)
        for split in ('train', 'validation', 'test'):
            for i in range(10):
                (data / f'clothing/{split}/class {i}').mkdir(parents=True)
                (data / f'clothing/{split}/class {i}/a.jpg').symlink_to(self.folder / 'image.jpg')

    def write_config(self, source: Path, name: str) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        cfg = shrink(Config.fromfile(source))
        if cfg.get('pretrained'):
            cfg.pretrained = str(ROOT / 'tests/data/slak_micro.pth')
        cfg.dump(target)

    def write_checkpoint(self, config: Path, path: Path) -> None:
        cfg = Config.fromfile(config)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(cfg.model)
        path.parent.mkdir(exist_ok=True)
        torch.save(dict(state_dict=model.state_dict(), meta={}), path)

    def run(self, text: str) -> subprocess.CompletedProcess:
        """Runs it in bash, which stops at the first command that fails; its trace names each."""
        path = os.pathsep.join((str(Path(warm.python()).parent), str(Path(sys.executable).parent), os.environ['PATH']))
        env = dict(os.environ, PATH=path, PYTHONPATH=str(ROOT), PYTHONWARNINGS='ignore', PORT='0', CUDA_VISIBLE_DEVICES='')
        return subprocess.run(['bash', '-euxo', 'pipefail', '-c', text], capture_output=True, text=True, cwd=self.folder, env=env,
                              timeout=600)
