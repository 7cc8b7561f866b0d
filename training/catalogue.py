"""What is sold, as training asks for it."""

import httpx

from infra.settings import Product, Settings


def catalogue_of(settings: Settings) -> tuple[dict[str, Product], tuple[str, ...]]:
    """Products by id: of the API, or of the settings and a note that says so if it does not answer."""
    try:
        url, headers = f"{settings.addresses.api}/v1/products", settings.api.headers
        reply = httpx.get(url, headers=headers, timeout=2.0)
        products = [Product.model_validate(each) for each in reply.raise_for_status().json()]
        return {each.product_id: each for each in products}, ()
    except (httpx.HTTPError, ValueError):
        note = f"the API at {settings.addresses.api} gave no catalogue, so that of the settings was taken"
        return {each.product_id: each for each in settings.catalogue}, (note,)
