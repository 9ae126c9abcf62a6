"""Commands of the docs name tools and options that exist, links lead somewhere, and Python examples of extending.md run."""
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

from slak_mm.sparsity import criteria

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


def blocks(page, language):
    return re.findall(rf'```{language}\n(.*?)```', page.read_text(), re.DOTALL)


def commands(page):
    text = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ')
    return [line.split('#')[0].split() for line in text.splitlines()
            if re.match(r'(\w+=\S+ )*(python )?tools/', line)]


@lru_cache(maxsize=None)
def help_of(*command):
    result = subprocess.run([sys.executable, '-W', 'ignore', *command, '--help'], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_commands(page):
    for words in commands(page):
        script = next(word for word in words if word.startswith('tools/'))
        assert (ROOT / script).is_file(), script
        arguments = words[words.index(script) + 1:]
        if script.endswith('.sh'):  # it hands its options to the tool of the same kind
            script = f'tools/{"train" if "train" in script else "test"}.py'
        command = [script, *(word for word in arguments[:1] if script == 'tools/benchmark.py')]
        for option in (word for word in arguments if word.startswith('--')):
            assert option.split('=')[0] in help_of(*command), (words, option)
        for path in (word for word in arguments if word.startswith('configs/')):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_links(page):
    for target in re.findall(r'\]\(([^)#]+)[^)]*\)', page.read_text()):
        if not target.startswith('http'):
            assert (page.parent / target).exists(), target


def test_examples_of_extending():
    before = dict(criteria.GROW)
    try:
        for code in blocks(ROOT / 'docs/extending.md', 'python'):
            exec(compile(code, 'extending.md', 'exec'), {})
        assert set(criteria.GROW) == {*before, 'first'}
    finally:
        criteria.GROW.pop('first', None)
