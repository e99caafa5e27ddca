"""Sites: named once, and number, noise stream, quantizer and stored maps follow."""

from __future__ import annotations

import pytest
import torch

from recbole_tinykg.errors import ConfigurationError
from recbole_tinykg.quantization import NoiseStreams, Quantizer, Sites, stream


def three_sites():
    sites = Sites()
    sites.add("loss.gradient", fewest_bits=8)
    sites.add("layer1.dropout", stored=False)
    sites.add("layer1.messages")
    return sites


def test_numbers_are_those_of_the_order_and_skip_no_site_that_stores_nothing():
    sites = three_sites()
    assert sites.numbers == {"loss.gradient": 0, "layer1.dropout": 1, "layer1.messages": 2}
    assert sites.stored == {"loss.gradient": 0, "layer1.messages": 2}
    assert len(sites) == 3


def test_a_name_is_given_once():
    sites = three_sites()
    with pytest.raises(AssertionError, match="loss.gradient"):
        sites.add("loss.gradient")


def test_all_sites_are_alike_except_where_more_bits_are_asked_for():
    bits = [quantizer.bits for quantizer in three_sites().table(Quantizer(2)).quantizers]
    assert bits == [8, 2, 2]
    bits = [quantizer.bits for quantizer in three_sites().table(Quantizer(32)).quantizers]
    assert bits == [32, 32, 32]


def test_chosen_bits_count_and_keep_the_rounding():
    nearest = Quantizer(2, "nearest")
    table = three_sites().table(nearest, {"loss.gradient": 1, "layer1.messages": Quantizer(4)})
    assert table.quantizer("loss.gradient") == Quantizer(1, "nearest")
    assert table.quantizer("layer1.messages") == Quantizer(4)
    assert table.quantizer("layer1.dropout") == nearest


def test_bits_that_do_not_exist_are_refused():
    with pytest.raises(ConfigurationError, match="bits must be one of"):
        three_sites().table(Quantizer(2), {"loss.gradient": 3})


def test_a_site_draws_the_noise_of_its_number_and_compresses_with_its_quantizer():
    streams = NoiseStreams(seed=5, num_sites=3).advance()
    step = three_sites().table(Quantizer(2), {"layer1.messages": 4}).at(streams)
    site, x = step.group("layer1")["messages"], torch.randn(7, 20)
    assert torch.equal(site.stream, streams[2])
    expected = Quantizer(4).quantize(x, stream(5, (1 << 16) + 2), first_row=3)
    codes = site.quantize(x, first_row=3)
    assert codes.layout == expected.layout
    for ours, theirs in zip(codes.tensors(), expected.tensors(), strict=True):
        assert torch.equal(ours, theirs)


def test_looking_sites_up_copies_no_stream():
    streams = NoiseStreams(seed=5, num_sites=3).current()
    step = three_sites().table(Quantizer(2)).at(streams)
    assert step.group("layer1").streams is streams and step.device == streams.device
    assert step["layer1.dropout"].stream.data_ptr() == streams[1].data_ptr()
