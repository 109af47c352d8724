"""The client of the package `wyoming` against `glowplug bridge wyoming`: PORT STEP. Ends with 1 at the first surprise."""

import asyncio
import sys

from wyoming.asr import Transcript
from wyoming.audio import AudioChunk
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.handle import Handled, NotHandled
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

PORT, STEP = int(sys.argv[1]), sys.argv[2]
PATIENCE = 180


async def exchange(*events):
    """Sends the events on a connection of their own, as Home Assistant does, and reads one answer."""
    async with AsyncTcpClient("127.0.0.1", PORT) as client:
        for event in events:
            await client.write_event(event.event())
        return await asyncio.wait_for(client.read_event(), PATIENCE)


def transcript(text, conversation=None):
    context = {"conversation_id": conversation, "device_id": "d"} if conversation else None
    return Transcript(text=text, language="en", context=context)


async def describe():
    event = await exchange(Describe())
    assert Info.is_type(event.type), event
    [program] = Info.from_event(event).handle
    assert program.installed and program.version and not program.supports_home_control, program
    [model] = program.models
    assert model.installed and "en" in model.languages and "de" in model.languages, model


async def talk():
    await describe()
    for conversation in ("01JDA", "01JDA", "strange/conversation #1", None):
        event = await exchange(transcript("How is the weather?", conversation))
        assert Handled.is_type(event.type), event
        # as it is spoken
        assert Handled.from_event(event).text == "It is warm today.", event
    # sound and events of other services are passed over
    sound = AudioChunk(rate=16000, width=2, channels=1, audio=bytes(100_000))
    event = await exchange(sound, Ping(text="p"))
    assert Pong.is_type(event.type) and Pong.from_event(event).text == "p", event
    event = await exchange(transcript(" "))
    assert NotHandled.is_type(event.type) and NotHandled.from_event(event).text, event


async def gone():
    await describe()
    event = await exchange(transcript("How is the weather?", "01JDA"))
    assert Error.is_type(event.type), event
    error = Error.from_event(event)
    assert error.code == "offline" and "offline" in error.text, error


asyncio.run({"talk": talk, "gone": gone}[STEP]())
print("ok")
