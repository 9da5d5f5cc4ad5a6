from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from latency_models.features import (
    FEATURE_NAMES,
    activation_bytes,
    features,
    macs,
    output_size,
    template_features,
    weight_bytes,
)
from latency_models.shapes import LayerShape
from latency_models.stairs import Stair, finest, out_step, padded

CONV = LayerShape("conv2d", 16, 33, 32, 32, (3, 3), (2, 2), (1, 1), epilogue="add+relu")


def at(shape):
    return shape.template, np.array([shape.in_channels]), np.array([shape.out_channels])


def test_amounts_of_a_convolution_match_the_hand_count():
    assert output_size(CONV) == (16, 16)
    assert macs(*at(CONV)) == 16 * 16 * 9 * 16 * 33
    assert weight_bytes(*at(CONV)) == 4 * 9 * 16 * 33
    assert activation_bytes(*at(CONV)) == 4 * (32 * 32 * 16 + 2 * 16 * 16 * 33)


def test_a_grouped_convolution_mixes_only_inside_its_groups():
    grouped = LayerShape("conv2d", 32, 32, 8, 8, (3, 3), padding=(1, 1), group_channels=8)
    assert macs(*at(grouped)) == 8 * 8 * 9 * 8 * 32
    assert weight_bytes(*at(grouped)) == 4 * 9 * 8 * 32


def test_depthwise_and_pooling_work_grows_with_the_channels_alone():
    depthwise = LayerShape("depthwise", 24, 24, 8, 8, (3, 3), padding=(1, 1))
    pool = LayerShape("global_pool", 24, 24, 8, 8)
    assert macs(*at(depthwise)) == 8 * 8 * 9 * 24
    assert weight_bytes(*at(depthwise)) == 4 * 9 * 24
    assert macs(*at(pool)) == 8 * 8 * 24
    assert weight_bytes(*at(pool)) == 0
    assert output_size(pool) == (1, 1)


def test_alignment_features_tell_where_in_its_block_a_width_lies():
    row = dict(zip(FEATURE_NAMES, features([CONV], lanes=16)[0], strict=True))
    assert (row["out_blocks"], row["out_remainder"], row["out_fill"]) == (3, 1, 33 / 48)
    assert (row["in_blocks"], row["in_remainder"]) == (1, 0)
    assert row["op_conv2d"] == 1
    assert row["op_other"] == 0
    assert (row["epilogue_add"], row["epilogue_relu"]) == (1, 1)


def test_operators_without_a_column_share_one_and_still_differ():
    swish, erf = (features([LayerShape(op, 16, 16, 8, 8)])[0] for op in ("swish", "erf"))
    assert swish[FEATURE_NAMES.index("op_other")] == erf[FEATURE_NAMES.index("op_other")] == 1
    assert (swish != erf).any()


def test_rows_keep_their_order_when_templates_alternate():
    other = LayerShape("dense", 64, 10, 1, 1)
    shapes = [CONV, other, CONV.with_channels(8, 8), other]
    X = features(shapes)
    assert X.shape == (4, len(FEATURE_NAMES))
    for row, shape in enumerate(shapes):
        np.testing.assert_array_equal(X[row : row + 1], template_features(*at(shape)))


@given(st.integers(1, 4096), st.sampled_from([1, 4, 8, 16]))
def test_padding_reaches_the_next_whole_block(channels, step):
    result = int(padded(np.array([channels]), step)[0])
    assert result % step == 0
    assert 0 <= result - channels < step


def test_few_channels_have_finer_steps_than_many():
    stair = Stair.of(16)
    channels = np.array([1, 2, 3, 11, 12, 13, 16, 17])
    assert padded(channels, stair).tolist() == [2, 2, 4, 12, 12, 16, 16, 32]
    assert [finest(step) for step in (stair, 16)] == [2, 16]


def test_a_layout_tells_the_step_of_its_output():
    for layout, step in (
        ("nchw16c", 16),
        ("nchw16c-few16c", Stair.of(16)),
        ("few16c", Stair.of(16)),
        ("few16c-nchw16c", 16),
    ):
        assert out_step(replace(CONV, layout=layout), 16) == step
