import pytest

from experiments.bench.search import Pairs, Search
from experiments.run.terminal import UserError


def test_a_search_finds_what_faiss_finds(capsys):
    result = Search(queries=20, gallery=300, dimensions=8, k=3, rounds=1).run()
    (row,) = result["rows"]
    assert row["jaxnets"]["median_seconds"] > 0 and 0.5 < row["jaxnets"]["found"] < 1
    assert "queries 20, gallery 300" in capsys.readouterr().out
    pytest.importorskip("faiss")
    assert row["faiss"]["found"] == pytest.approx(row["jaxnets"]["found"], abs=1e-6)


def test_random_embeddings_of_pairs_are_no_better_than_chance(capsys):
    (row,) = Pairs(embeddings=400, dimensions=4, each=10, rounds=1).run()["rows"]
    assert 0.45 < row["jaxnets"]["found"] < 0.55
    assert "pairs: embeddings 400" in capsys.readouterr().out


@pytest.mark.parametrize("measurement", [Search(k=0), Search(gallery=5, k=6), Pairs(each=1), Pairs(rounds=0)], ids=str)
def test_unusable_measurements_are_refused(measurement):
    with pytest.raises(UserError, match=r"--(k|each|rounds)"):
        measurement.run()
