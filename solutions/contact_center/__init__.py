"""The contact centre: a text bot, in Korean and English, that knows when it does not know."""
