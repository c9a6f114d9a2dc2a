"""v13.store"""
