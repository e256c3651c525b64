import os
import signal
import threading

import pytest

from kvmlab.guest.interrupt import held_back


def test_ctrl_c_strikes_at_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        done.append(True)
    assert done == [True] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_of_the_block_goes_before_a_ctrl_c_in_it():
    with pytest.raises(ValueError), held_back():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_another_thread_it_does_nothing():
    seen = []

    def deed():
        with held_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=deed)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
