"""What the kernels that hold whole rows share."""

import pytest

from pallas_kernels.core.rowwise.columns import cut_columns


@pytest.mark.parametrize(
    ("features", "sizes"),
    [(80, (64, 16)), (2880, (2048, 1024)), (4096, (4096,)), (5120, (4096, 1024)), (8000, (8192,)), (1, (1,))],
)
def test_columns_are_cut_where_that_pads_less(features, sizes):
    assert tuple(columns.size for columns in cut_columns(features, max_pieces=2)) == sizes
    covered = [
        columns.begin + column for columns in cut_columns(features, 2) for column in range(columns.num_inside)
    ]
    assert covered == list(range(features))
