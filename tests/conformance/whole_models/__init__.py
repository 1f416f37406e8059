"""Whole models as users write them, a table a kind: each traced, masked and compacted, and compared with itself."""

from tests.conformance.whole_models import (
    anomaly,
    attention,
    citation,
    citation_deep,
    clouds,
    deep,
    drugs,
    embeddings,
    graphs,
    hetero,
    links,
    molecules,
    points,
    relations,
    signed,
    temporal,
    traffic,
    unlike,
    with_data,
)
from tests.conformance.whole_models.refused import marked
from tests.conformance.whole_models.row import Sample, Whole

__all__ = ["MODELS", "Sample", "Whole"]

MODELS: list[Whole] = marked(
    [
        *citation.MODELS,
        *citation_deep.MODELS,
        *graphs.MODELS,
        *molecules.MODELS,
        *drugs.MODELS,
        *links.MODELS,
        *embeddings.MODELS,
        *hetero.MODELS,
        *relations.MODELS,
        *points.MODELS,
        *clouds.MODELS,
        *temporal.MODELS,
        *traffic.MODELS,
        *signed.MODELS,
        *unlike.MODELS,
        *anomaly.MODELS,
        *deep.MODELS,
        *attention.MODELS,
        *with_data.MODELS,
    ]
)
