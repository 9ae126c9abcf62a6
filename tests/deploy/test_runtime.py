"""What runtimes do to the process that they are in."""
import sys

import numpy as np
import pytest
import warm

from slak_mm.deploy import runtime
from slak_mm.deploy.description import pack


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='the stack of signal handlers of Linux')
def test_objects_of_openvino_leave_no_stack_that_is_gone():
    """Two that go in the order in which they came, and then a signal with a handler: it ended the process."""
    pytest.importorskip('openvino')
    code = '''
import faulthandler, gc, signal, subprocess
faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *args: None)
import numpy as np, openvino
from openvino import opset13
from slak_mm.deploy.description import pack
from slak_mm.deploy.runtime import OpenVINO, KEY
def build():
    images = opset13.parameter([1, 3, 8, 8], np.float32)
    model = openvino.Model([opset13.relu(images)], [images], 'relu')
    model.set_rt_info(pack(dict(task='features')), KEY)
    return OpenVINO('relu.xml', model)
first, second = build(), build()
del first
gc.collect()
del second
gc.collect()
for _ in range(3):
    subprocess.run(['true'])
print('alive')
'''
    result = warm.run('-c', code)
    assert (result.returncode, result.stdout.split()[-1:]) == (0, ['alive']), result.stderr


@pytest.mark.slow
def test_bf16_that_the_cpu_has_to_imitate_is_told(monkeypatch, recwarn):
    pytest.importorskip('openvino')
    import openvino
    from openvino import opset13
    images = opset13.parameter([1, 3, 8, 8], np.float32)
    model = openvino.Model([opset13.relu(images)], [images], 'relu')
    model.set_rt_info(pack(dict(task='features', outputs=['stage3'])), runtime.KEY)
    for able, bf16, told in ((True, True, 0), (False, False, 0), (False, True, 1)):
        recwarn.clear()
        monkeypatch.setattr(runtime, 'computes_bf16', lambda: able)  # noqa: B023
        runtime.OpenVINO('relu.xml', model, bf16=bf16)
        assert ['OpenVINO IMITATES THEM' in str(one.message) for one in recwarn].count(True) == told
