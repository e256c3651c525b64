"""The picture of the layers: what is in the frame stands on it, and what is not there is drawn as missing."""

import matplotlib.pyplot as plt
import pytest

from kvmlab import plots
from kvmlab.columns import frame
from kvmlab.errors import KvmlabError

TOP = [
    ("process", None, "/usr/bin/qemu-system-x86_64", "pid 4711", "holds /dev/kvm open as fd 3", None, ""),
    ("domain", None, "c1", "id 7", "UUID 1-2-3", None, ""),
    ("daemon", None, "/usr/sbin/libvirtd", "pid 800", "serves qemu:///system", None, ""),
    ("client", None, "this Python", "pid 900", "connected to the daemon by fd 4", None, ""),
]


def threads(count, accel):
    return [("thread", n, f"CPU {n}/{accel}", f"tid {4800 + n}", f"last on host CPU {n}", None, "") for n in range(count)]


def with_kvm(count=2):
    low = [
        ("module", None, "KVM, its common part", "kvm", "loaded as a module", None, ""),
        ("module", None, "its part for this processor", "kvm_amd", "loaded as a module", None, ""),
        ("device", None, "/dev/kvm", "10:232", "group kvm, crw-rw----", None, ""),
        ("vm", None, "anon_inode:kvm-vm", "fd 9", "open in process 4711", None, ""),
    ]
    vcpus = [("vcpu", n, f"anon_inode:kvm-vcpu:{n}", f"fd {14 + n}", "open in process 4711", 12345 + n, "") for n in range(count)]
    return frame([*low, *vcpus, *threads(count, "KVM"), *TOP], "layers")


def emulated():
    low = [(layer, None, None, None, "none: emulated by TCG", None, "") for layer in ("module", "device", "vm")]
    vcpus = [("vcpu", n, None, None, "none: emulated by TCG", None, "") for n in (0, 1)]
    return frame([*low, *vcpus, *threads(2, "TCG"), *TOP], "layers")


def drawn(data):
    ax = plots.layers(data)
    ax.figure.canvas.draw()
    texts = {text.get_text(): text for text in ax.texts}
    plt.close(ax.figure)
    return ax, texts


def heights(ax, texts):
    return [texts[word].get_position()[1] for word in ("this Python", "c1", "CPU 0/KVM", "anon_inode:kvm-vm", "/dev/kvm", "kvm")]


def test_the_program_stands_on_top_and_the_modules_at_the_bottom_with_all_their_numbers():
    ax, texts = drawn(with_kvm())
    places = heights(ax, texts)
    assert places == sorted(places, reverse=True) and len(set(places)) == len(places)
    for words in (
        "pid 900, connected to the daemon by fd 4",
        "id 7, UUID 1-2-3",
        "tid 4801, last on host CPU 1",
        "fd 15, 12,346 exits so far",
    ):
        assert words in texts
    assert texts["CPU 1/KVM"].get_position()[0] == texts["anon_inode:kvm-vcpu:1"].get_position()[0]


def test_the_line_between_user_and_kernel_mode_is_between_threads_and_file_descriptors():
    ax, texts = drawn(with_kvm())
    (line,) = ax.lines
    assert texts["CPU 0/KVM"].get_position()[1] > line.get_ydata()[0] > texts["anon_inode:kvm-vcpu:0"].get_position()[1]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 16, 288])
def test_no_box_overlaps_another_and_no_text_leaves_its_box(count):
    ax = plots.layers(with_kvm(count))
    ax.figure.canvas.draw()
    boxes = [patch.get_window_extent() for patch in ax.patches]
    assert not [(a, b) for n, a in enumerate(boxes) for b in boxes[:n] if a.overlaps(b)]
    for text in ax.texts:
        extent = text.get_window_extent()
        inside = [box for box in boxes if box.y0 < (extent.y0 + extent.y1) / 2 < box.y1 and extent.x1 > box.x0 and extent.x0 < box.x1]
        assert all(box.x0 < extent.x0 and extent.x1 < box.x1 for box in inside), text.get_text()
    assert (f"and {count - 2} more" in {text.get_text() for text in ax.texts}) == (count > 3)
    plt.close(ax.figure)


def test_what_tcg_has_no_part_of_is_an_empty_box_that_says_so():
    ax, texts = drawn(emulated())
    dashed = [patch for patch in ax.patches if patch.get_linestyle() in ("--", "dashed")]
    assert len(dashed) == 4 and "none: emulated by TCG" in texts


def test_in_words_it_is_a_sentence_a_vcpu():
    assert plots.layers_in_words(with_kvm()).splitlines()[1] == (
        "c1 vCPU 1 is thread 4801 of QEMU's process 4711, which runs it by ioctl on fd 15 (anon_inode:kvm-vcpu:1, 12,346 exits so far)."
    )
    assert plots.layers_in_words(emulated()).splitlines()[0] == (
        "c1 vCPU 0 is thread 4800 of QEMU's process 4711, which emulates it: KVM has no part in it."
    )


def test_what_is_not_known_is_left_out_of_picture_and_words():
    data = with_kvm(1)
    data.loc[data["layer"].isin(["vcpu", "daemon"]), ["id", "exits"]] = None
    _, texts = drawn(data)
    assert "/usr/sbin/libvirtd" in texts and not [text for text in texts if "NA" in text or "nan" in text]
    assert "by ioctl on a file descriptor (anon_inode:kvm-vcpu:0)." in plots.layers_in_words(data)


def test_another_frame_is_refused_by_the_name_of_the_right_call():
    for draw in (plots.layers, plots.layers_in_words):
        with pytest.raises(KvmlabError, match=r"lab\.layers"):
            draw(frame([], "guests"))


def test_a_frame_without_rows_is_drawn_all_the_same():
    drawn(frame([], "layers"))
    assert plots.layers_in_words(frame([], "layers")) == ""
