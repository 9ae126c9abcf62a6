import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
version = re.search(r"__version__ = '(.+)'", (HERE / 'slak_mm/__init__.py').read_text('utf-8'))[1]


def bring_mim(package):
    """Puts configs/, tools/ and model-index.yml into a package's .mim, where mmengine and mim look for them.

    In git they are links, of which Windows, some network disks and archives make small files with a path in them. In an sdist they
    are files, in their place already.
    """
    for name in ('configs', 'tools', 'model-index.yml'):
        source, target = HERE / name, Path(package, '.mim', name)
        there = target.is_dir() or source.is_file() and target.is_file() and target.read_bytes() == source.read_bytes()
        if there or not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.unlink()
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copyfile(source, target)


class BuildWithMim(build_py):

    def run(self):
        super().run()
        if not getattr(self, 'editable_mode', False):
            bring_mim(Path(self.build_lib, 'slak_mm'))


class SdistWithMim(sdist):

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        bring_mim(Path(base_dir, 'slak_mm'))


# mmengine's `package::config` needs pkg_resources, gone from setuptools 82; mmdet and mmsegmentation refuse mmcv 2.2;
# mmsegmentation imports ftfy and regex without asking for them.
engine = ['mmengine>=0.10.0,<1.0', 'mmcv>=2.0.0,<2.2.0', 'setuptools<81']
extras = dict(
    cls=[*engine, 'mmpretrain>=1.2.0'],
    det=[*engine, 'mmdet>=3.3.0'],
    seg=[*engine, 'mmsegmentation>=1.2.2', 'ftfy', 'regex'],
)
extras['all'] = sorted({name for names in extras.values() for name in names})
# to export models and to run them; the runtimes alone are enough for a file that is there
extras['deploy'] = ['onnx', 'onnxruntime', 'onnxscript', 'openvino']
extras['safetensors'] = ['safetensors']  # to read and write files of this format
extras['dev'] = (HERE / 'requirements/dev.txt').read_text('utf-8').split()

setup(
    name='slak_mm',
    version=version,
    description='SLaK (51x51 kernels, trained sparse) for mmpretrain, mmdetection and mmsegmentation',
    long_description=(HERE / 'README.md').read_text('utf-8'),
    long_description_content_type='text/markdown',
    author='The slak_mm Authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    project_urls={
        'Paper': 'https://arxiv.org/abs/2207.03620',
        'Original code': 'https://github.com/VITA-Group/SLaK',
    },
    keywords=['SLaK', 'large kernel', 'dynamic sparsity', 'backbone', 'OpenMMLab', 'mmpretrain', 'mmdetection', 'mmsegmentation'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(8, 14)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    packages=find_packages(include=['slak_mm', 'slak_mm.*']),
    cmdclass=dict(build_py=BuildWithMim, sdist=SdistWithMim),
    package_data=dict(slak_mm=['py.typed', '.mim/model-index.yml', '.mim/configs/**/*', '.mim/tools/**/*']),
    exclude_package_data=dict(slak_mm=['*/__pycache__/*']),
    python_requires='>=3.8',
    # torch and OpenMMLab are the user's own, as in every OpenMMLab project
    install_requires=['numpy'],
    extras_require=extras,
)
