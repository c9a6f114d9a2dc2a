"""The whole deployment guide on one machine: a played market, real servers, good and bad releases."""
