"""Takes memory, 4 MiB at a time, for ever."""
kept = []
while True:
    kept.append(bytearray(4 << 20))
    print(f"{4 * len(kept)} MiB", flush=True)
