"""The docs as a site: ``python -m sphinx -W --keep-going -n docs docs/_build/html``."""
import pkgutil
from importlib import import_module

import slak_mm

project = 'slak_mm'
author = 'The slak_mm Authors'
copyright = f'2026, {author}'
version = release = slak_mm.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'slak_mm {version}'
html_copy_source = False

myst_heading_anchors = 3  # links to headings, as GitHub makes them
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
# types of other libraries, whose sites a build without network cannot ask
nitpick_ignore_regex = [
    ('py:.*', r'(torch|nn|numpy|np|mmengine|collections|pathlib)\..*'),
    ('py:class', r'optional|Tensor|Module|Path|BaseDataset|Dropout|BatchNorm'),
]


def public(module):
    """What its ``__all__`` names, else what is defined in it."""
    own = [name for name, value in vars(module).items() if getattr(value, '__module__', None) == module.__name__ and name[0] != '_']
    return getattr(module, '__all__', own)


def api(app, docname, source):
    """Fills docs/api.rst: each public name once, in the first of slak_mm, its packages and its modules that has it."""
    if docname != 'api':
        return
    seen, text = set(), [source[0]]
    modules = [slak_mm, *(import_module(info.name) for info in pkgutil.walk_packages(slak_mm.__path__, 'slak_mm.'))]
    whole = {module.__name__ for module in modules if hasattr(module, '__all__')} - {'slak_mm'}
    for module in modules:
        name = module.__name__
        members = [member for member in public(module) if id(getattr(module, member)) not in seen]
        if name.rpartition('.')[0] in whole and name not in whole or not members and not hasattr(module, '__path__'):
            continue  # of a package that says what is public in it, or documented already
        seen.update(id(getattr(module, member)) for member in members)
        text += [name, '-' * len(name), '', f'.. automodule:: {name}']
        text += [f'   :members: {", ".join(members)}', '   :imported-members:', ''] if members else ['']
    source[0] = '\n'.join(text)


def setup(app):
    app.connect('source-read', api)
