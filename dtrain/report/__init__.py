"""`dtrain report`: runs side by side on one HTML page that needs no network and no server."""
