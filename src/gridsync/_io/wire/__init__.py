"""Bytes in, replies out: the multiplexed asyncio wire, the lean blocking wire and what they share."""
