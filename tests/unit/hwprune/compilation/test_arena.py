from hypothesis import given
from hypothesis import strategies as st

from hwprune.compilation.arena import ALIGNMENT_BYTES, Life, align, plan_arena

LIVES = st.dictionaries(
    st.text(st.characters(codec="ascii"), min_size=1, max_size=4),
    st.tuples(st.integers(1, 5000), st.integers(0, 8), st.integers(0, 4)).map(lambda t: Life(t[0], t[1], t[1] + t[2])),
    max_size=14,
)


@given(LIVES)
def test_buffers_that_live_together_share_no_byte(lives):
    plan = plan_arena(lives)
    for name, life in lives.items():
        assert plan.offsets[name] % ALIGNMENT_BYTES == 0
        assert plan.offsets[name] + life.size_bytes <= plan.size_bytes
        for other, rival in lives.items():
            if name < other and life.first <= rival.last and rival.first <= life.last:
                begin, end = plan.offsets[name], plan.offsets[name] + life.size_bytes
                assert end <= plan.offsets[other] or plan.offsets[other] + rival.size_bytes <= begin


@given(LIVES)
def test_live_bytes_are_the_largest_sum_of_any_step(lives):
    sums = [sum(life.size_bytes for life in lives.values() if life.first <= step <= life.last) for step in range(16)]
    plan = plan_arena(lives)
    assert plan.live_bytes == max(sums)
    assert plan.size_bytes >= plan.live_bytes


def test_a_chain_needs_two_places():
    lives = {str(step): Life(1000, step, step + 1) for step in range(6)}
    assert plan_arena(lives).size_bytes == 2 * align(1000)


def test_an_empty_network_needs_no_arena():
    assert plan_arena({}).size_bytes == 0
