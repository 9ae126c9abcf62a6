"""The page of projects/gradio_demo, in a real browser. Needs gradio, selenium, chromium and its driver: without them it is skipped."""
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('gradio')
webdriver = pytest.importorskip('selenium.webdriver')
APP = Path(__file__).parents[2] / 'projects/gradio_demo/app.py'
PORT = 7879
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which('chromedriver'), reason='no chromedriver')]


@pytest.fixture
def page(seg):
    """The address at which the page of a segmentor is served."""
    address = f'http://127.0.0.1:{PORT}'
    server = subprocess.Popen([sys.executable, APP, seg, '--port', str(PORT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for _ in range(120):
            try:
                urlopen(address)
                break
            except OSError:
                assert server.poll() is None, server.stdout.read().decode()
                time.sleep(.5)
        yield address
    finally:
        server.kill()


@pytest.fixture
def browser():
    options = webdriver.ChromeOptions()
    for option in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--window-size=1200,900'):
        options.add_argument(option)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which('chromedriver')))
    yield browser
    browser.quit()


def test_image_in_and_prediction_out(page, browser, tmp_path):
    image = tmp_path / 'image.png'
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (80, 120, 3), np.uint8)).save(image)
    browser.get(page)
    browser.implicitly_wait(30)
    browser.find_element('css selector', 'input[type=file]').send_keys(str(image))
    browser.find_element('css selector', 'button[aria-label="Remove Image"], button[aria-label="Clear"]')  # it is there
    browser.find_element('xpath', '//button[contains(., "Predict")]').click()
    end = time.time() + 60
    while not (shown := browser.find_element('css selector', 'label textarea, label input[type=text]').get_property('value')):
        assert time.time() < end, browser.page_source[-3000:]
        time.sleep(.2)
    assert shown.startswith('120x80: ') and shown.endswith(' ms')
    assert '% of the image' in browser.page_source
    picture = browser.find_element('css selector', 'img[src*="/file="]')
    assert picture.get_property('naturalWidth') == 120
