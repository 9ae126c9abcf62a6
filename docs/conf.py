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
autodoc_inherit_docstrings = False  # torch's own are about any module
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
# other libraries' sites, which a build without network cannot ask; constants have no entry
nitpick_ignore_regex = [('py:.*', r'(?!slak_mm)\w+\..*'), ('py:data', '.*')]


def public(module):
    """What its ``__all__`` names, else what is defined in it."""
    own = [name for name, value in vars(module).items() if getattr(value, '__module__', None) == module.__name__ and name[0] != '_']
    return getattr(module, '__all__', own)


def api(app, docname, source):
    """Fills docs/api.rst: each public name once, in the first of slak_mm, its packages and their modules that has it.

    Left out are modules from which their package takes what is public.
    """
    if docname != 'api':
        return
    modules = [slak_mm, *(import_module(info.name) for info in pkgutil.walk_packages(slak_mm.__path__, 'slak_mm.'))]
    seen, inner, text = set(), set(), [source[0]]
    for module in modules:
        values = {member: getattr(module, member) for member in public(module)}
        if hasattr(module, '__path__') and module is not slak_mm:
            inner |= {getattr(value, '__module__', None) for value in values.values()} - {module.__name__}
        if module.__name__ in inner:
            continue
        members = [member for member, value in values.items() if id(value) not in seen]
        seen |= {id(value) for value in values.values()}
        if members or hasattr(module, '__path__'):
            text += [module.__name__, '-' * len(module.__name__), '', f'.. automodule:: {module.__name__}']
            text += [f'   :members: {", ".join(members)}', '   :imported-members:', ''] if members else ['']
    source[0] = '\n'.join(text)


def foreign(app, env, node, text):
    """The type of an argument, other than a link in a text, may be another library's."""
    return text if node.get('refspecific') and node['reftype'] == 'class' else None


def setup(app):
    app.connect('source-read', api)
    app.connect('missing-reference', foreign)
    app.connect('env-get-outdated', lambda *_: ['api'])  # a new module changes no page
