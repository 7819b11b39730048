"""Things dealt to several, each of whom gets a range of them."""


def even_part(size: int, parts: int, place: int) -> tuple[int, int]:
    """Start and length of a part, where all are alike but for one element; the first ones have more."""
    each, left = divmod(size, parts)
    return place * each + min(place, left), each + (place < left)


def chunk_part(size: int, parts: int, place: int) -> tuple[int, int]:
    """Start and length of a part as ``torch.chunk`` makes them: all alike but for the last ones, which may be empty."""
    each = -(-size // parts)
    start = min(place * each, size)
    return start, min(each, size - start)
