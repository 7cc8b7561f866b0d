"""What the HTTP calls work with, built once by `create_app` and handed to every route."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from features.connection import AsyncConnection
from infra.settings import Settings
from ingestion.pseudonyms import Pseudonyms
from serving.catalogue import Catalogue
from serving.champions_watch import ChampionsWatch
from serving.measures import ApiMeasures
from serving.pricing import Policy
from serving.publisher import Publisher
from serving.reviews import Reviews
from serving.scoring import Scoring
from training.champions import Champions
from training.tracking import Registry


@dataclass(frozen=True)
class Services:
    """Collaborators of the routes."""

    settings: Settings
    pseudonyms: Pseudonyms
    store: AsyncConnection
    publisher: Publisher
    models: ChampionsWatch
    champions: Champions
    registry: Registry
    scoring: Scoring
    reviews: Reviews
    pricing: Policy
    catalogue: Catalogue
    measures: ApiMeasures


async def _of(request: Request) -> Services:  # a plain function would cost a thread a request
    services: Services = request.app.state.services
    return services


UsesServices = Annotated[Services, Depends(_of)]
"""A route's parameter of this type is given the services."""
