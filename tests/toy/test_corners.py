import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slak_mm.toy.corners import CLASSES, RADIUS, Corners, draw_corners


def discs(image):
    """Centres (y, x) of the two red and of the two blue discs."""
    smooth = cv2.blur(image.astype(np.float32), (7, 7))
    difference = smooth[..., 0] - smooth[..., 2]
    found = []
    for sign in (1, -1):
        _, _, stats, centres = cv2.connectedComponentsWithStats((sign * difference > 90).astype(np.uint8))
        largest = 1 + np.argsort(stats[1:, cv2.CC_STAT_AREA])[-2:]
        assert (stats[largest, cv2.CC_STAT_AREA] > 12).all()
        found.append(centres[largest][:, ::-1])
    return found


@settings(max_examples=10, deadline=None)
@given(side=st.integers(24, 100), label=st.integers(0, 1), seed=st.integers(0, 1000))
def test_the_class_is_where_colours_are(side, label, seed):
    image = draw_corners(side, label, np.random.default_rng(seed))
    red, blue = discs(image)
    assert image.shape == (128, 128, 3) and len(red) == len(blue) == 2
    same = [np.linalg.norm(pair[0] - pair[1]) for pair in (red, blue)]
    # a side or a diagonal, within what the corners are shifted by
    assert np.allclose(same, side * 2**.5 if label == 0 else side, atol=7)
    assert min(np.linalg.norm(a - b) for a in red for b in blue) > side - 7


def test_the_same_arguments_give_the_same_pictures():
    first, again, other = (Corners(24, 6, seed) for seed in (3, 3, 4))
    assert len(first) == 6 and [first[i]['gt_label'] for i in range(6)] == [0, 1] * 3 and first.metainfo['classes'] == CLASSES
    assert all((first[i]['img'] == again[i]['img']).all() and (first[i]['img'] != other[i]['img']).any() for i in range(6))
    assert len({first[i]['img'].tobytes() for i in range(6)}) == 6


@pytest.mark.parametrize('side', [4 * RADIUS - 1, 120])
def test_a_square_that_does_not_fit_is_refused(side):
    with pytest.raises(ValueError, match=f'from 20 to 111 pixels in a picture of 128, got {side}'):
        draw_corners(side, 0, np.random.default_rng(0))
