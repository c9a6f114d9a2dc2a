"""v13.research"""
