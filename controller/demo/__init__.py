"""Shell: `spillway demo`, an overflow on one machine, and the OAuth2 issuer that it shares with the tests."""
