"""Lists of classes that must agree: the config's, those of the files, and what the heads tell apart."""
import json
import xml.etree.ElementTree as ET
from collections import Counter
from difflib import get_close_matches
from typing import Any, Dict, Iterator, List, Sequence, Set

from mmengine.fileio import get, load

from .findings import ERROR, FINE, WARNING, Finding, listed
from .split import Split, chose_classes, classes_of, source_of, spread

MOST_FILES = 2000  # files with annotations of one image each, that are read again


def check_class_names(split: Split) -> Iterator[Finding]:
    """Whether label i is the i-th class of the config, by the names in the data set's files.

    mmdetection numbers the categories in the order of the JSON, mmpretrain folders in the order of the alphabet. Names are compared
    with the categories of a data set in COCO's format, the objects of VOC's, and the folders of one with a folder for each class.
    """
    for dataset in split.datasets:
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if 'CLASSES' in (getattr(dataset, 'metainfo', None) or {}) and 'CLASSES' not in getattr(type(dataset), 'METAINFO', {}):
            yield Finding(ERROR, f'{source_of(dataset)}: nothing reads CLASSES of metainfo, and the classes are those of '
                                 f'{type(dataset).__name__}. Write metainfo=dict(classes=(...)), in lower case.')
        elif isinstance(classes, str):
            yield Finding(ERROR, f'{source_of(dataset)}: the classes are the text {classes!r}, not a tuple. Of one class write '
                                 f'classes=({classes!r}, ), with a comma.')
        elif hasattr(dataset, 'cat_ids') and hasattr(dataset, 'ann_file'):
            yield from _check_categories(dataset)
        elif classes and len(dataset) and 'xml_path' in _first(dataset):
            yield from _check_objects(dataset)
        elif classes and getattr(dataset, 'folder_to_idx', None):
            yield from _check_folders(dataset)


def _first(dataset: Any) -> dict:
    info = dataset.get_data_info(0)
    return info if isinstance(info, dict) else {}


def read_categories(path: str, backend_args: Any = None) -> List[dict]:
    """``categories`` of a file in COCO's format. Only they are parsed, as all of COCO takes half a minute.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It has none.
    """
    content = get(path, backend_args=backend_args)
    at = content.find(b'"categories"')
    while at >= 0:
        text = content[at + len('"categories"'):at + 4_000_000].decode('utf-8', 'ignore').lstrip().lstrip(':').lstrip()
        try:
            categories = json.JSONDecoder().raw_decode(text)[0]
            if isinstance(categories, list) and all({'id', 'name'} <= set(category) for category in categories):
                return categories
        except (TypeError, ValueError):
            pass
        at = content.find(b'"categories"', at + 1)
    return list(load(path, file_format='json', backend_args=backend_args)['categories'])


def names_in_file(dataset: Any, infos: Sequence[dict]) -> List[str]:
    """What the files of a data set in COCO's or VOC's format call its classes; nothing for another, or if they cannot be read.

    Args:
        dataset: Of OpenMMLab.
        infos (Sequence[dict]): What it has parsed of its images, before any was filtered.
    """
    try:
        if hasattr(dataset, 'cat_ids'):
            return [category['name'] for category in read_categories(dataset.ann_file)]
        paths = [infos[i]['xml_path'] for i in spread(len(infos)) if 'xml_path' in infos[i]]
        return list({name.text or '': None for path in paths for name in _objects(path, dataset)})
    except (OSError, LookupError, SyntaxError, TypeError, ValueError):
        return []


def _objects(path: str, dataset: Any) -> Iterator[ET.Element]:
    """The names of the objects in a file in VOC's format."""
    return ET.fromstring(get(path, backend_args=dataset.backend_args)).iterfind('object/name')


def _check_categories(dataset: Any) -> Iterator[Finding]:
    """Of COCO's format: ``cat_ids`` of the data set, whose i-th gets label i, and the names of these numbers in the file."""
    path, classes, numbers = dataset.ann_file, classes_of(dataset), list(dataset.cat_ids)
    names = {category['id']: category['name'] for category in read_categories(path, getattr(dataset, 'backend_args', None))}
    counts = {number: len(images) for number, images in getattr(dataset, 'cat_img_map', {}).items() if images}
    if not chose_classes(dataset):
        unknown = sorted({str(names.get(number, f'category_id {number}')) for number in counts if number not in numbers})
        if unknown:
            yield _unknown(path, unknown[0], dataset)
            return
    own = [names.get(number, f'category_id {number}') for number in numbers]
    yield from _compare(path, classes, own, [counts.get(number, 0) for number in numbers], list(names.values()))


def _compare(path: str, classes: Sequence[str], own: List[str], counts: List[int], in_file: List[str]) -> Iterator[Finding]:
    """``own``: the file's name of each label, with the number of its objects; ``in_file``: all names of the file."""
    other = [i for i in range(len(own)) if i >= len(classes) or own[i] != classes[i]]
    moved = [i for i in other if i >= len(classes) or own[i] in classes or classes[i] in own]
    missing = [name for name in classes if name not in in_file]
    misspelt = _misspelt(missing, {name for name in in_file if name not in classes})
    what = f'{sum(counts[i] for i in other)} of {sum(counts)} objects would get the name of another class'
    if missing and len(own) < len(classes) and (misspelt or moved):
        hint = '; '.join(f'{name!r}: {misspelt[name]!r} is meant?' if name in misspelt else repr(name) for name in missing[:5])
        effect = f'labels are numbered without it, and {what}' if moved else 'its objects are left out'
        yield Finding(ERROR, f'{path}: the classes of the config are not all in it, {hint}; {effect}. The file has: '
                             f'{listed(in_file, 30)}.')
    elif moved:
        yield Finding(ERROR, f"{path} has its classes in another order than the config: {what}, as label i is the file's i-th. Write "
                             f"metainfo=dict(classes=({', '.join(map(repr, own))},)) in each data set; the config has "
                             f'({", ".join(map(repr, classes))}).')
    elif other:
        yield Finding(WARNING, f'{path} calls its classes {listed(own, 5)}, the config {listed(classes, 5)}: they are matched by '
                               'their order alone.')
    elif missing:
        yield Finding(WARNING, f'{path} has no class {listed(map(repr, missing))}: none of its objects is one.')
    else:
        yield Finding(FINE, f'{path}: the classes of the config are those of the file, in its order.')


def _unknown(path: str, name: str, dataset: Any) -> Finding:
    known = ', '.join(classes_of(dataset))
    return Finding(ERROR, f"{path}: unknown class {name!r}. {type(dataset).__name__} knows {known}; the data set's "
                          'metainfo=dict(classes=(...)) chooses others.')


def _misspelt(missing: Sequence[str], candidates: Set[str]) -> Dict[str, str]:
    """Each name that is one of the candidates but for a letter, upper case or signs, and that one."""
    plain = {_plain(name): name for name in candidates}
    found = {name: get_close_matches(_plain(name), plain, n=1, cutoff=.8 if len(name) > 4 else 1.) for name in missing}
    return {name: plain[close[0]] for name, close in found.items() if close}


def _plain(name: str) -> str:
    return ''.join(character for character in name.lower() if character.isalnum()) or name


def _check_objects(dataset: Any) -> Iterator[Finding]:
    """Of VOC's format: mmdetection leaves out objects of other names. The files of a sample are read again for them."""
    classes = classes_of(dataset)
    found: Dict[str, int] = Counter()
    where: Dict[str, str] = {}
    infos = dataset.load_data_list() if len(dataset) <= MOST_FILES else None  # those without an object that is kept, too
    for i in spread(len(dataset if infos is None else infos), MOST_FILES):
        path = (dataset.get_data_info(i) if infos is None else infos[i])['xml_path']
        for each in _objects(path, dataset):
            found[each.text or ''] += 1
            where.setdefault(each.text or '', path)
    unknown = sorted(set(found) - set(classes))
    never = [name for name in classes if name not in found]
    misspelt = _misspelt(never, set(unknown))
    if unknown and not chose_classes(dataset):
        yield _unknown(where[unknown[0]], unknown[0], dataset)
    elif misspelt:
        name, meant = next(iter(misspelt.items()))
        yield Finding(ERROR, f'{where[meant]}: the config has the class {name!r}, which no file has; {meant!r} is meant? Its '
                             f'{found[meant]} objects would be left out. The files have: {listed(found, 30)}.')
    elif unknown:
        number = sum(found[name] for name in unknown)
        yield Finding(WARNING if never else FINE, f'{source_of(dataset)}: objects of {listed(unknown)} are left out ({number} of '
                                                  f'{sum(found.values())}), as the config does not name them.')
    else:
        yield Finding(FINE, f'{source_of(dataset)}: each object is of a class of the config.')


def _check_folders(dataset: Any) -> Iterator[Finding]:
    """Of a folder for each class: label i is the i-th folder by the alphabet."""
    classes, folders = classes_of(dataset), dataset.folder_to_idx
    own = sorted(folders, key=folders.get)
    wrong = [(folder, name) for folder, name in zip(own, classes) if folder != name]
    stray = [folder for folder in own if folder.startswith(('.', '__'))]
    if stray:
        yield Finding(WARNING, f'{source_of(dataset)}: the folder {stray[0]!r} counts as a class, and moves the labels of those '
                               'behind it. Remove it.')
    if wrong and set(own) & set(classes):
        yield Finding(ERROR, f'{source_of(dataset)}: folder {wrong[0][0]!r} has the label of class {wrong[0][1]!r}. Write '
                             f"metainfo=dict(classes=({', '.join(map(repr, own))},)), the order of the folders, or leave it out.")
    else:
        yield Finding(FINE, f'{source_of(dataset)}: {len(own)} folders, in the order of the classes.')


def check_heads(split: Split) -> Iterator[Finding]:
    """Compares the number of classes of each head with the data set's: box, mask, each stage, auxiliary ones.

    A detector's must be equal. A segmentor or a classifier may tell more apart than there are.
    """
    for dataset in split.datasets:
        classes = classes_of(dataset)
        if not classes or not split.heads:
            continue
        boxes = len(dataset) and _first(dataset).get('instances') is not None
        things = len((dataset.metainfo or {}).get('thing_classes') or ())
        allowed = {len(classes)} | ({things, len(classes) - things, len(classes) - things + 1} if things else set())
        wrong = [head for head in split.heads if head.num_classes not in allowed]
        text = listed((f'{head.name} tells {head.num_classes} apart' for head in wrong), 6)
        known = f'{source_of(dataset)}: the data set has {len(classes)} classes'
        if wrong and boxes:
            yield Finding(ERROR, f'{known}, {text}. Set num_classes={len(classes)} in each, or the classes of the data set '
                                 '(metainfo=dict(classes=...)).')
        elif wrong:
            yield Finding(WARNING, f'{known}, {text}. Set num_classes of each head, or the classes of the data set.')
        else:
            yield Finding(FINE, f'{known}, as {listed((head.name for head in split.heads), 6)} tell apart.')


def check_splits(splits: Sequence[Split]) -> Iterator[Finding]:
    """Compares validation and test with the training: the same names for the same labels."""
    trained = [dataset for split in splits if split.training for dataset in split.datasets[:1]]
    for dataset in [dataset for split in splits if not split.training for dataset in split.datasets] if trained else ():
        yield from _compare_splits(trained[0], dataset)


def _compare_splits(trained: Any, dataset: Any) -> Iterator[Finding]:
    mine, theirs = getattr(dataset, 'folder_to_idx', None), getattr(trained, 'folder_to_idx', None)
    if mine and theirs and mine != theirs:
        odd = sorted(set(mine) ^ set(theirs))
        yield Finding(ERROR, f'{source_of(dataset)} has other folders than {source_of(trained)}: {listed(odd)} in one of the two '
                             'alone, so that the same label is another class. Make an empty folder where one lacks.')
        return
    a, b = classes_of(trained), classes_of(dataset)
    if a != b and set(a) == set(b):
        yield Finding(ERROR, f'{source_of(dataset)} has its classes in another order than {source_of(trained)}: ({", ".join(b)}) '
                             f'instead of ({", ".join(a)}). Write the same metainfo=dict(classes=...) in each data set.')
    elif a != b and len(a) == len(b):
        odd = [f'{y} instead of {x}' for x, y in zip(a, b) if x != y]
        yield Finding(WARNING, f'{source_of(dataset)} calls its classes otherwise than {source_of(trained)}: {listed(odd, 4)}.')
