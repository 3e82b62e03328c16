"""Who does it: looks, opens, closes and keeps what residency decides, and tells how it stands."""
