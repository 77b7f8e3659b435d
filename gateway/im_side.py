"""IM aggregation, put together: users, accounts, connectors, supervision, messages and media (D1 to D16); must know no
more of the rest of the gateway than it is handed. Built where `im.app` is set."""
