"""v13.market"""
