"""ChannelSuite: what every channel must do, as a pytest class to derive from."""

from __future__ import annotations

from sdqueue_producers.testing.channel_receiving import ReceivingTests
from sdqueue_producers.testing.channel_sending import SendingTests


class ChannelSuite(ReceivingTests, SendingTests):
    """Every channel passes these. Derive from it, and give it your channel, what its platform sends, and a platform::

        class TestChirp(ChannelSuite):
            secrets = ("signing-secret", "api-token")

            @pytest.fixture
            async def platform(self):
                async with FakeChirp() as platform:  # a FakePlatform
                    yield platform

            def make_channel(self, context, platform):
                return Chirp(ChirpSettings(secret="signing-secret", token="api-token", api_url=platform.url))

            def samples(self, channel):
                return [Sample(self.signed(Request("POST", "/chirp/events", body=b"...")))]

            def signed(self, request):
                return replace(request, headers={**request.headers, "chirp-signature": ...})

    The tests are coroutines, for pytest-asyncio in auto mode. What a channel's ``caps`` do not name is not tried.
    """
