import asyncio, sys, tempfile, time, secrets
from pathlib import Path
from tests.chaos.producer import quiet
from tests.chaos.servers import private_servers
from tests.producers.table.checker import check
from tests.producers.table.platforms import ALONE, together
from tests.producers.table.world import House, Plan, World


async def main():
    from tests.nursery import NURSERY

    NURSERY.set_forkserver_preload(["tests.producers.table.wounded"])
    quiet()
    folder = Path(tempfile.mkdtemp(prefix="tbl-"))
    print(folder, flush=True)
    async with private_servers("rabbitmq", "redis", folder / "servers") as (servers, what):
        print(what, flush=True)
        async with House(servers.broker_url, servers.store_url, folder / "house", "t") as house:
            for name in sys.argv[1:]:
                make = together if name == "together" else ALONE[name]
                at = time.monotonic()
                w = World(house, make, Plan(strikes=1), folder / name)
                out = await w.play()
                for n, o in out.items():
                    f = check(o.observations)
                    print(
                        n,
                        dict(o.strikes),
                        "sent",
                        f.sent,
                        "counts",
                        dict(f.counts),
                        "amb",
                        dict(o.observations.ambiguous),
                        f"longest {f.longest_s:.1f}",
                        "CLEAN" if f.clean else "BROKEN",
                        f"{time.monotonic() - at:.0f}s",
                        flush=True,
                    )
                    for d in f.details:
                        print("   !", d[:600])
            print(house.pool.defects())


if __name__ == "__main__":
    asyncio.run(main())
