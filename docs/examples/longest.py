"""Prints the longest words of its input; how many is its argument."""
import sys

words = set(sys.stdin.read().split())
for word in sorted(words, key=lambda w: (-len(w), w))[: int(sys.argv[1])]:
    print(len(word), word)
print(f"{len(words)} different words", file=sys.stderr)
