"""Research: from recordings to a sign-off bundle. Wing A of storey 4; never imported by production."""
