"""IM aggregation (D1 to D16): one device connection for every network a person uses; knows store, push core and media
only through `gateway.model`."""
