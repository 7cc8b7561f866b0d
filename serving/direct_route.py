"""The short way through the framework, for the call whose latency everybody waits for."""

from fastapi import Request
from starlette.types import Receive, Scope, Send

from serving.guard import GuardedRoute


class DirectRoute(GuardedRoute):
    """A route whose endpoint takes the request alone and gives the response.

    It is described, found and measured like any other, and its errors are answered alike. But no
    dependencies are solved, nothing is validated for it, and no exit stacks are opened: at this rate of
    calls they cost as much as the decision.
    """

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint; a method that it does not take is the framework's business."""
        if scope["method"] not in (self.methods or ()):
            await super().answer(scope, receive, send)
            return
        response = await self.endpoint(Request(scope, receive))
        await response(scope, receive, send)
